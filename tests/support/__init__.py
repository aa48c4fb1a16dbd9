"""What the tests stand on: a real OTLP receiver, real servers, a real HTTP client, a deadline."""
