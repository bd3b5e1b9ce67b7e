// Writes the names that gru_classifier learns from: single first and last names of ten languages,
// from the npm package @faker-js/faker (MIT). A name that occurs in two languages is left out.
//   node names.mjs SCRATCH > names.csv
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(path.resolve(process.argv[2]) + "/");
const { allLocales } = await import(pathToFileURL(require.resolve("@faker-js/faker")));
const languages = {
  Czech: "cs_CZ", Dutch: "nl", English: "en", French: "fr", German: "de",
  Italian: "it", Polish: "pl", Romanian: "ro", Spanish: "es", Turkish: "tr",
};
const most = 900; // of a language, so that none outweighs the others

const seen = new Map();
for (const [language, locale] of Object.entries(languages)) {
  const { first_name, last_name } = allLocales[locale].person;
  for (const lists of [first_name, last_name]) {
    for (const name of Object.values(lists).flat()) {
      if (!/^\p{L}{3,16}$/u.test(name)) continue;
      if (!seen.has(name)) seen.set(name, new Set());
      seen.get(name).add(language);
    }
  }
}
const byLanguage = Object.fromEntries(Object.keys(languages).map((l) => [l, []]));
for (const [name, of] of seen) if (of.size === 1) byLanguage[[...of][0]].push(name);
console.log("name,language");
for (const [language, names] of Object.entries(byLanguage)) {
  const step = Math.max(1, names.length / most);
  for (let i = 0; i < names.length; i += step) console.log(`${names[Math.floor(i)]},${language}`);
}
