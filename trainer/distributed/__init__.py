"""The processes that train together: launching, failing, sharding."""
