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
console.log(`ONNX Runtime ${ort.env.versions.node ?? ""}`);
const outputs = await session.run(inputs);
// A float32 of magnitude 56, as a long-running cell state reaches, is told from the next one by 4e-6 already, so that what
// is allowed grows with the value: up to 1 it is 1e-5, beyond it 1e-5 of the value.
const allowed = 1e-5;
let failed = false;
for (const [name, want] of Object.entries(check.outputs)) {
  const got = outputs[name];
  if (JSON.stringify(got.dims) !== JSON.stringify(want.shape)) throw new Error(`${name}: shape ${got.dims}, not ${want.shape}`);
  let absolute = 0, scaled = 0, greatest = 0;
  want.data.forEach((v, i) => {
    const off = Math.abs(v - got.data[i]);
    absolute = Math.max(absolute, off);
    scaled = Math.max(scaled, off / Math.max(1, Math.abs(v)));
    greatest = Math.max(greatest, Math.abs(v));
    if (!(off <= allowed * Math.max(1, Math.abs(v)))) failed = true;
  });
  console.log(`${name}: values up to ${greatest.toPrecision(3)}, greatest difference ${absolute.toExponential(1)}, ${scaled.toExponential(1)} by magnitude`);
}
if (failed) process.exit(1);
