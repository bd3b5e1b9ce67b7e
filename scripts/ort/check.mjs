// Runs a model in ONNX Runtime on the inputs of a check.json and compares with its outputs.
//   npm install --prefix scripts/ort && node scripts/ort/check.mjs demo-out/char_lstm_tuned.onnx demo-out/check.json
import fs from "node:fs";
import ort from "onnxruntime-node";

const [model, file] = process.argv.slice(2);
const check = JSON.parse(fs.readFileSync(file));
const make = ({ type, shape, data }) =>
  type === "int64"
    ? new ort.Tensor("int64", BigInt64Array.from(data.map((v) => BigInt(v))), shape)
    : new ort.Tensor("float32", Float32Array.from(data), shape);
const session = await ort.InferenceSession.create(model);
const inputs = Object.fromEntries(Object.entries(check.inputs).map(([k, v]) => [k, make(v)]));
const outputs = await session.run(inputs);
let worst = 0;
for (const [name, want] of Object.entries(check.outputs)) {
  const got = outputs[name];
  if (JSON.stringify(got.dims) !== JSON.stringify(want.shape)) throw new Error(`${name}: shape ${got.dims}, not ${want.shape}`);
  want.data.forEach((v, i) => { worst = Math.max(worst, Math.abs(v - got.data[i])); });
}
console.log(`ONNX Runtime ${ort.env.versions.node ?? ""}: greatest difference ${worst}`);
if (!(worst <= 1e-5)) process.exit(1);
