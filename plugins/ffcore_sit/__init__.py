"""SiT (Ma et al., 2401.08740), as teacher, student and online network."""
