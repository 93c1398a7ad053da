"""Scripts that made what the package ships, and studies of its methods."""
