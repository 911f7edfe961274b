"""SiT (Ma et al., 2401.08740): the scalable interpolant transformer, as teacher and student."""
