// Node's own HTTP server with onnxruntime-node.
import http from 'node:http';
import { createRequire } from 'node:module';

// The modules lie in the folder that the bench names.
const ort = createRequire(process.argv[2] + '/')('onnxruntime-node');
const { MODEL_NAME, MODEL_PATH, PORT } = process.env;
const session = await ort.InferenceSession.create(MODEL_PATH, { intraOpNumThreads: 1, interOpNumThreads: 1 });
const integers = session.inputMetadata[0].type === 'int64';

const tensor = (instances) => {
  const shape = [];
  for (let part = instances; Array.isArray(part); part = part[0]) shape.push(part.length);
  const flat = shape.length > 1 ? instances.flat(shape.length - 1) : instances;
  return integers
    ? new ort.Tensor('int64', BigInt64Array.from(flat, BigInt), shape)
    : new ort.Tensor('float32', Float32Array.from(flat), shape);
};

const rows = ({ data, dims: [n, width] }) => {
  const out = [];
  for (let i = 0; i < n; i++) out.push(Array.from(data.subarray(i * width, (i + 1) * width)));
  return out;
};

const predict = async (body) => {
  const { Y } = await session.run({ X: tensor(JSON.parse(body).instances) });
  return Buffer.from(JSON.stringify({ predictions: rows(Y) }));
};

const server = http.createServer((request, response) => {
  if (request.method !== 'POST' || request.url !== `/v1/models/${MODEL_NAME}:predict`) {
    response.writeHead(404, { 'Content-Length': 0 }).end();
    return;
  }
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    try {
      const answer = await predict(parts.length === 1 ? parts[0] : Buffer.concat(parts));
      response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': answer.length }).end(answer);
    } catch (error) {
      response.writeHead(400, { 'Content-Type': 'text/plain' }).end(String(error));
    }
  });
});
server.keepAliveTimeout = 600_000;
server.listen(Number(PORT), '127.0.0.1');
