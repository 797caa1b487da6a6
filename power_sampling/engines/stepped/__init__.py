"""Scheduling for engines that give logits and can fork states."""
