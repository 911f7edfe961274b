"""What core itself has to offer, as a recipe names it: exact teachers, raw features."""
