// A browser in which the owner of a Home Assistant is logged in, driven by lines of JSON on standard input:
//   node browser.mjs BASE TOKENS LANGUAGE
// {"do":"visit","path":"/…"}  {"do":"see","text":"…"}  {"do":"click","text":"…"}  {"do":"fill","values":["…"]}
// {"do":"text"}  {"do":"shot","path":"…"}       answered by {"result":…} or {"error":"…"}, a line each.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { chromium } = createRequire(`${process.env.NODE_PATH}/`)("playwright-core");
const [base, tokens, language] = process.argv.slice(2);
// A browser that only speaks with the Home Assistant under test.
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: language === "de" ? "de-DE" : "en-GB", timezoneId: "UTC", reducedMotion: "reduce" });
const stored = { ...JSON.parse(tokens), hassUrl: base, clientId: `${base}/` };
await context.addInitScript(([held, chosen]) => {
  localStorage.setItem("hassTokens", JSON.stringify({ ...held, expires: Date.now() + held.expires_in * 1000 }));
  localStorage.setItem("dockedSidebar", '"docked"');
  localStorage.setItem("selectedLanguage", JSON.stringify(chosen));
}, [stored, language]);
const page = await context.newPage();
page.setDefaultTimeout(20_000);

const match = (text) => {
  const [, source, flags] = /^\/(.*)\/([a-z]*)$/s.exec(text) ?? [];
  return source === undefined ? text : new RegExp(source, flags);
};
// The text of the page with what its shadows hold: `innerText` of the body stops at the first of them.
const everything = () => {
  const out = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) { if (node.data.trim()) out.push(node.data.trim()); return; }
    if (node.nodeType !== Node.ELEMENT_NODE && node.nodeType !== Node.DOCUMENT_FRAGMENT_NODE) return;
    if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) return;
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.childNodes) walk(child);
  };
  walk(document.body);
  return out.join("\n");
};

const steps = {
  async visit({ path }) {
    await page.goto(base + path, { waitUntil: "domcontentloaded" });
    await page.waitForSelector("home-assistant");
  },
  leave: () => page.goto("about:blank"),
  see: ({ text, patience_ms }) => page.getByText(match(text)).filter({ visible: true }).first().waitFor({ timeout: patience_ms }),
  async click({ text, role }) {
    const found = role ? page.getByRole(role, { name: match(text) }) : page.getByText(match(text));
    await found.filter({ visible: true }).first().click();
  },
  // The fields of the form that is open, from above.
  async fill({ values }) {
    const fields = page.locator("step-flow-form input").filter({ visible: true });
    await fields.nth(values.length - 1).waitFor();
    for (const [idx, value] of values.entries()) await fields.nth(idx).fill(value);
  },
  press: ({ key }) => page.keyboard.press(key),
  type: ({ value }) => page.keyboard.type(value),
  text: () => page.evaluate(everything),
  async shot({ path }) {
    await page.waitForTimeout(400);
    await page.screenshot({ path });
  },
  width: ({ width, height }) => page.setViewportSize({ width, height }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: step, ...words } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await steps[step](words)) ?? null };
  } catch (error) {
    const shown = await page.evaluate(everything).catch(() => "");
    answer = { error: `${String(error).slice(0, 800)}\non ${page.url()} there is:\n${shown.slice(0, 1500)}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
