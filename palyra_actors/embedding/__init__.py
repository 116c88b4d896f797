"""What makes vectors of texts: one small interface, and three who implement it.

hash     words and their parts, hashed: deterministic, no download, microseconds
http     an endpoint that speaks as OpenAI's does: OpenAI, Voyage, a server of one's own
local    a model in a folder, through sentence-transformers (extra `local`)
"""
