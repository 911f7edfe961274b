"""Networks that several teachers and students share."""
