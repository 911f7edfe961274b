"""A pretrained network of any convention as a teacher, and a copy of any teacher as a student."""
