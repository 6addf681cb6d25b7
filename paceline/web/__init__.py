"""The OpenAI-compatible API, the dashboard pages and their event streams. No rules, no peer sockets."""
