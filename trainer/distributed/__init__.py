"""The processes that train together: launch, failures, sharding."""
