"""A pretrained network of any convention as a teacher, named in a recipe."""
