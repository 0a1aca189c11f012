"""What a developer's machine needs: Docker engines and images for the demo and the tests. Standard library only, never shipped."""
