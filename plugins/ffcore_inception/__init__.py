"""The features of the Inception network, in which published FIDs are measured."""
