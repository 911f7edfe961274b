"""Exact teachers, raw features and the identity decoder."""
