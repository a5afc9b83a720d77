// Words, numbers and times, in the viewer's language and zone. Every text of the page is in words/*.js.

const LANGUAGES = ["en", "de"];
const kept = localStorage.getItem("language");
const wanted = kept ? [kept] : navigator.languages;
export const language = wanted.map((tag) => tag.slice(0, 2)).find((tag) => LANGUAGES.includes(tag)) ?? "en";
const { default: words } = await import(`./words/${language}.js`);
document.documentElement.lang = language;

/** The viewer's own way to write numbers and times, where it is of this language. */
export const locale = navigator.languages.find((tag) => tag.startsWith(language)) ?? language;
const plural = new Intl.PluralRules(language);
const number = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });

/** The text of this name, with `{gaps}` filled; with `n`, the form for that number. */
export function say(name, gaps = {}) {
  let text = words[name];
  if (gaps.n !== undefined) text = words[`${name}.${plural.select(gaps.n)}`] ?? words[`${name}.other`] ?? text;
  if (text === undefined) return name;
  return text.replace(/\{(\w+)\}/g, (_, gap) => (typeof gaps[gap] === "number" ? number.format(gaps[gap]) : (gaps[gap] ?? "")));
}

/** Whether there is such a text. */
export const has = (name) => words[name] !== undefined;

export function speak(tag) {
  localStorage.setItem("language", tag);
  location.reload();
}

/** The word for a state of the API; what is not known is shown as it came. */
export const state = (name) => (has(`state.${name}`) ? say(`state.${name}`) : String(name));

/** The word for a reason or a rule of the API, by its name; what is not known is shown as it came. */
const nameOf = (rule) => rule.toLowerCase().replace(/[^a-z0-9]+/g, "-");
export const reason = (rule) => (has(`reason.${nameOf(rule)}`) ? say(`reason.${nameOf(rule)}`) : rule);
/** What to do about it in this page's words, where it has some. */
export const remedy = (rule) => (rule && has(`next.${nameOf(rule)}`) ? say(`next.${nameOf(rule)}`) : null);

export const count = (n) => number.format(n);

const lists = new Intl.ListFormat(language, { type: "conjunction" });
/** Several words as one would say them. */
export const list = (words) => lists.format(words);

/** Bytes in decimal units, as firmware tools count them. */
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  if (n < 1000) return `${number.format(n)} B`;
  if (n < 1e6) return `${number.format(Math.round(n / 100) / 10)} kB`;
  if (n < 1e9) return `${number.format(Math.round(n / 1e5) / 10)} MB`;
  return `${number.format(Math.round(n / 1e8) / 10)} GB`;
}

/** A length of time, from its largest unit down to the next. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, seconds);
  if (s < 10) return `${number.format(Math.round(s * 10) / 10)} ${say("unit.s")}`;
  if (s < 90) return `${Math.round(s)} ${say("unit.s")}`;
  if (s < 3600) return `${Math.round(s / 60)} ${say("unit.min")}`;
  const two = (large, small) => (small.startsWith("0 ") ? large : `${large} ${small}`);
  if (s < 86_400) return two(`${Math.floor(s / 3600)} ${say("unit.h")}`, `${Math.floor((s % 3600) / 60)} ${say("unit.min")}`);
  return two(`${Math.floor(s / 86_400)} ${say("unit.d")}`, `${Math.floor((s % 86_400) / 3600)} ${say("unit.h")}`);
}

const ago = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });

/** How long ago. */
export function since(ms, now = Date.now()) {
  if (!ms) return say("never");
  const s = (ms - now) / 1000;
  const far = Math.abs(s);
  if (far < 10) return say("just-now");
  if (far < 90) return ago.format(Math.round(s), "second");
  if (far < 5400) return ago.format(Math.round(s / 60), "minute");
  if (far < 129_600) return ago.format(Math.round(s / 3600), "hour");
  return ago.format(Math.round(s / 86_400), "day");
}

export const time = (ms) => clock.format(ms);
export const date = (ms) => day.format(ms);
export const moment = (ms) => full.format(ms);
export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
