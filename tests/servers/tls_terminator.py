"""Accepts TLS on a loopback port and passes the plain stream to a unix socket, as stunnel would.

python tls_terminator.py PORT CERTIFICATE_AND_KEY SOCKET
"""

import asyncio
import ssl
import sys
from contextlib import suppress


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side closes."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(port: str, pem: str, listening: str) -> None:
    """Run until killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_unix_connection(listening)
        await asyncio.gather(copy(reader, before), copy(behind, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = await asyncio.start_server(serve, "127.0.0.1", int(port), ssl=context)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
