"""Frozen, validated, picklable records. They import the standard library only."""
