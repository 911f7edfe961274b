"""Data for objectives that need it: stored latents, and samples of the teacher."""
