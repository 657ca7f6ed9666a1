import asyncio
import sys

import uvicorn


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()  # accept no more
        await asyncio.sleep(0.5)  # what was accepted may still send its request
        await super().shutdown(sockets)


Server(uvicorn.Config("app:app", fd=int(sys.argv[1]))).run()
