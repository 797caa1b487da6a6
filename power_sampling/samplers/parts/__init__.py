"""What samplers are made of: chance, cuts, resampling, prefetching."""
