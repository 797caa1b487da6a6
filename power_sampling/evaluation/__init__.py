"""Whether power sampling pays, on your model and your questions, beside the honest opponent at equal tokens."""
