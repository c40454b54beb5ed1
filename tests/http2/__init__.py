"""HTTP/2 by hand, for tests that must be able to send any byte (RFC 9113, RFC 7541). Standard library only."""
