"""The SDK that task authors write against, and the isolated worker that runs their code."""
