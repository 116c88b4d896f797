"""Bytes ⇄ envelopes. Whatever comes in, what goes out is an envelope or a typed refusal."""
