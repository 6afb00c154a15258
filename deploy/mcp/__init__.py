"""`gdsr-mcp`: Model Context Protocol (MCP) server: tools to upscale, inside allowed folders."""
