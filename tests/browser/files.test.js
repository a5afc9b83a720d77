// The files of the page by themselves: words, size, and what they must not do.
import { test } from "node:test";
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";

const root = new URL("../../crates/server/page/", import.meta.url);
const read = (name) => readFileSync(new URL(name, root), "utf8");
const SOURCES = [...readdirSync(root), ...readdirSync(new URL("later/", root)).map((name) => `later/${name}`)].filter((name) => name.endsWith(".js"));
const words = async (language) => (await import(new URL(`words/${language}.js`, root))).default;
const gaps = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, gap]) => gap).sort();

test("every language has every text, with the same gaps", async () => {
  const [en, de] = [await words("en"), await words("de")];
  assert.deepEqual(Object.keys(de).sort(), Object.keys(en).sort());
  for (const name of Object.keys(en)) {
    assert.ok(de[name].trim() && en[name].trim(), name);
    // One of many may say "the open one" in one language, and "1 open" in another.
    if (!/\.(one|other)$/.test(name)) assert.deepEqual(gaps(de[name]), gaps(en[name]), name);
  }
});

test("every text that is asked for is there", async () => {
  const en = await words("en");
  const known = (name) => name in en || `${name}.other` in en;
  for (const file of SOURCES) for (const [, name] of read(file).matchAll(/\bsay\("([^"]+)"/g)) assert.ok(known(name), `${file}: ${name}`);
  // Names that are made of two parts: there must be texts that begin so.
  for (const file of SOURCES) for (const [, start] of read(file).matchAll(/\bsay\(`([^`$]+)\$\{/g)) assert.ok(Object.keys(en).some((name) => name.startsWith(start)), `${file}: ${start}…`);
});

/** The names of reasons and rules that the server's sources make, without those of its tests. */
function rules() {
  const found = new Set();
  const crates = new URL("../../crates/", import.meta.url);
  for (const crate of ["model", "server", "families", "engine", "app"]) {
    for (const name of readdirSync(new URL(`${crate}/src/`, crates), { recursive: true })) {
      if (!name.endsWith(".rs") || /(^|\/)tests?(\/|\.rs)/.test(name)) continue;
      const [source] = readFileSync(new URL(`${crate}/src/${name}`, crates), "utf8").split("#[cfg(test)]\nmod tests {");
      for (const [, rule] of source.matchAll(/\bOutcome::because\(\s*(?:model::outcome::)?Ending::\w+,\s*"([^"]+)"/g)) found.add(rule);
      for (const [, rule] of source.matchAll(/\bReason::new\(\s*"([^"]+)"/g)) found.add(rule);
      if (name === "outcome.rs") for (const [, rule] of source.matchAll(/^pub const [A-Z_]+: &str = "([^"]+)";/gm)) found.add(rule);
      if (name === "family.rs") for (const [, rule] of source.matchAll(/Self::\w+(?: \| Self::\w+)* => "([^"]+)",/g)) found.add(rule);
    }
  }
  return [...found];
}

test("every reason that the server gives by a name, and what to do about it, has words", async () => {
  const all = rules();
  for (const known of ["boot loop", "no call-back", "device error", "window-too-short", "canary-failed", "partial"]) assert.ok(all.includes(known), `${known} was not found in the sources`);
  for (const language of ["en", "de"]) {
    const texts = await words(language);
    const missing = all.map((rule) => rule.toLowerCase().replace(/[^a-z0-9]+/g, "-")).flatMap((rule) => [`reason.${rule}`, `next.${rule}`]).filter((name) => !(name in texts));
    assert.deepEqual(missing, [], language);
  }
});

test("no text is there that nobody asks for", async () => {
  const en = await words("en");
  const all = SOURCES.map(read).join("\n");
  const starts = [...all.matchAll(/`([a-z-]+\.(?:[a-z-]+-)?)\$\{/g)].map(([, start]) => start);
  const isAsked = (name) => all.includes(`"${name}"`) || starts.some((start) => name.startsWith(start));
  const idle = Object.keys(en).filter((name) => !isAsked(name) && !isAsked(name.replace(/\.(one|other)$/, "")));
  assert.deepEqual(idle, []);
});

test("text is never made into markup, and nothing is evaluated", () => {
  for (const file of SOURCES) assert.doesNotMatch(read(file), /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|javascript:/, file);
});

test("the first load is below 100 kB", () => {
  const first = ["index.html", "style.css", "icon.svg", "app.js", "home.js", "parts.js", "say.js", "fleet.js", "vendor/preact.js", "words/de.js"];
  const len = first.reduce((sum, name) => sum + gzipSync(read(name), { level: 9 }).length, 0);
  assert.ok(len < 100_000, `${len} bytes`);
  console.log(`first load: ${(len / 1000).toFixed(1)} kB compressed`);
});
