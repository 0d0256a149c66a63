"""The private names of other libraries that fitorch depends on: one module per library."""
