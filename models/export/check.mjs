// Runs every model under the given folders in ONNX Runtime on its recorded inputs, and compares with
// what PyTorch gave, to 1e-5 (relative above 1). onnxruntime-node is taken from SCRATCH/node_modules.
//   node check.mjs SCRATCH FOLDER…
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const [scratch, ...roots] = process.argv.slice(2);
const ort = createRequire(path.resolve(scratch) + "/")("onnxruntime-node");
const TYPES = {
  1: ["float32", Float32Array], 6: ["int32", Int32Array], 7: ["int64", BigInt64Array],
  9: ["bool", Uint8Array], 11: ["float64", Float64Array],
};

// A TensorProto with raw data: dims (1), data_type (2), name (8), raw_data (9).
function readTensor(file) {
  const bytes = fs.readFileSync(file);
  let at = 0;
  const varint = () => {
    let v = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const b = bytes[at++];
      v |= BigInt(b & 127) << shift;
      if (b < 128) return Number(BigInt.asIntN(64, v));
    }
  };
  const tensor = { dims: [], type: 0, name: "", raw: new Uint8Array() };
  while (at < bytes.length) {
    const key = varint();
    const [field, wire] = [key >> 3, key & 7];
    if (wire === 0) {
      const v = varint();
      if (field === 1) tensor.dims.push(v);
      if (field === 2) tensor.type = v;
      continue;
    }
    if (wire !== 2) throw new Error(`${file}: wire type ${wire}`);
    const size = varint();
    const part = bytes.subarray(at, (at += size));
    if (field === 1) for (const end = at, start = (at -= size); at < end; ) tensor.dims.push(varint());
    if (field === 8) tensor.name = part.toString();
    if (field === 9) tensor.raw = part;
  }
  const [type, Array] = TYPES[tensor.type];
  const data = new Array(new Uint8Array(tensor.raw).buffer);
  return { name: tensor.name, tensor: new ort.Tensor(type, data, tensor.dims) };
}

function* folders(root) {
  if (fs.existsSync(path.join(root, "model.onnx"))) yield root;
  for (const e of fs.readdirSync(root, { withFileTypes: true }).sort((a, b) => a.name < b.name ? -1 : 1)) {
    if (e.isDirectory() && e.name !== "export" && !e.name.startsWith("test_data_set")) yield* folders(path.join(root, e.name));
  }
}

const tensors = (dir, kind) =>
  fs.readdirSync(dir).filter((f) => f.startsWith(kind + "_")).length
    ? [...fs.readdirSync(dir).filter((f) => f.startsWith(kind + "_")).keys()].map((i) => readTensor(path.join(dir, `${kind}_${i}.pb`)))
    : [];

let failed = 0, passed = 0;
for (const root of roots) for (const dir of folders(root)) {
  const session = await ort.InferenceSession.create(path.join(dir, "model.onnx"), { logSeverityLevel: 3 });
  for (const set of fs.readdirSync(dir).filter((f) => f.startsWith("test_data_set")).sort()) {
    const at = path.join(dir, set);
    let worst = 0, why = "";
    try {
      const got = await session.run(Object.fromEntries(tensors(at, "input").map((t) => [t.name, t.tensor])));
      for (const { name, tensor: want } of tensors(at, "output")) {
        const y = got[name];
        if (String(y.dims) !== String(want.dims)) why = `${name} is [${y.dims}], not [${want.dims}]`;
        else want.data.forEach((v, i) => { const d = Math.abs(Number(v) - Number(y.data[i])) / Math.max(1, Math.abs(Number(v))); worst = d > worst || Number.isNaN(d) ? d : worst; });
      }
    } catch (e) { why = e.message.split("\n")[0]; }
    if (!why && !(worst <= 1e-5)) why = "too far";
    if (why) failed++; else passed++;
    console.log(`${why ? "FAIL" : "PASS"} ${dir}/${set}: greatest difference ${worst.toExponential(1)}${why && "; " + why}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
