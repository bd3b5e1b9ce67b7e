// Has ONNX Runtime optimize each case of a folder, at the levels whose results suit any machine, and writes the results as cases.
//   npm install --prefix scripts/ort && node scripts/exports/optimize.mjs FOLDER OUT
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const ort = createRequire(path.resolve("scripts/ort/package.json"))("onnxruntime-node");
const [folder, out] = process.argv.slice(2);
for (const name of fs.readdirSync(folder).sort()) {
  for (const level of ["basic", "extended"]) {
    const to = path.join(out, `${name}-${level}`);
    fs.mkdirSync(to, { recursive: true });
    try {
      const session = await ort.InferenceSession.create(path.join(folder, name, "model.onnx"), {
        graphOptimizationLevel: level, optimizedModelFilePath: path.join(to, "model.onnx"), logSeverityLevel: 4 });
      await session.release();
    } catch (e) {
      console.log(`ONNX Runtime refuses ${name} (${level}): ${e.message.split("\n")[0].slice(0, 160)}`);
      fs.rmSync(to, { recursive: true });
      continue;
    }
    for (const f of ["test_data_set_0", "META.json"]) fs.cpSync(path.join(folder, name, f), path.join(to, f), { recursive: true });
  }
}
