"""One emitter per runtime, one record per target."""
