"""SiT trained with REPA (Yu et al., 2410.06940), as teacher and student."""
