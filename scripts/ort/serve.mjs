// Runs models in ONNX Runtime for internal/difftest: a JSON object a line comes in, {model, inputs, shared}, where shared
// names the inputs that outputs are written into, and one goes out,
// {outputs} or {error}. Models and elements are base64, strings are themselves.
//   npm install --prefix scripts/ort && node scripts/ort/serve.mjs
import readline from "node:readline";
import ort from "onnxruntime-node";

const arrays = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, bool: Uint8Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
};
const decode = (text) => new Uint8Array(Buffer.from(text ?? "", "base64")); // a copy, so aligned for any type
const tensor = ({ type, dims, data, strings }) =>
  new ort.Tensor(type, type === "string" ? strings ?? [] : new arrays[type](decode(data).buffer), dims);
const encode = ({ type, dims, data }) =>
  type === "string" ? { type, dims, strings: data }
    : { type, dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64") };
const each = (object, f) => Object.fromEntries(Object.entries(object).map(([k, v]) => [k, f(v)]));

const options = { graphOptimizationLevel: "disabled", intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4 };
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { model, inputs, shared } = JSON.parse(line);
  let answer;
  try {
    const session = await ort.InferenceSession.create(decode(model), options);
    const feeds = each(inputs, tensor);
    const fetches = Object.fromEntries(session.outputNames.map((name) => [name, feeds[shared?.[name]] ?? null]));
    answer = { outputs: each(await session.run(feeds, fetches, { logSeverityLevel: 4 }), encode) };
    await session.release();
  } catch (e) {
    answer = { error: String(e.message ?? e) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
