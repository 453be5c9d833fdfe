"""What a node keeps on disk: keys, record log, signing journal, artifacts and task state."""
