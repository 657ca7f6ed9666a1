const http = require('http');

const server = http.createServer((request, response) => {
  setTimeout(() => response.end(`${process.pid}\n`), 10);
});
server.listen({ fd: Number(process.argv[2]) });
process.on('SIGTERM', () => server.close());
