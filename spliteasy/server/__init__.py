"""The server's side: a session computes, the store keeps sessions apart, the app speaks HTTP, the process runs it."""
