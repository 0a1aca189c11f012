"""The words: frozen, validated, picklable records. Standard library only."""
