// Words: numbers, sizes and tokens as people read and hear them.

const NAMES = { " ": "space", "\n": "new line", "\t": "tab", "": "nothing" };

const SIGNS = { " ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d" };

/** A token as tables show it: a new element whose blanks at either end are signs, softly. */
export function spelt(token) {
  const [, before, inner, after] = token.match(/^(\s*)([^]*?)(\s*)$/);
  const element = document.createElement("span");
  for (const [text, blank] of [[before, true], [inner, false], [after, true]]) {
    if (!text) continue;
    const part = document.createElement(blank ? "i" : "span");
    part.textContent = blank ? text.replace(/\s/g, (one) => SIGNS[one] ?? SIGNS[" "]) : text;
    element.append(part);
  }
  if (!token) element.textContent = "\u2205";
  element.className = "spelt";
  return element;
}

/** A token as a screen reader shall say it. */
export function spoken(token) {
  return NAMES[token] ?? (token.trim() || "blank");
}

/** "1 loop", "8 loops". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** A probability or a share, in percent. */
export function percent(value) {
  const hundred = value * 100;
  if (hundred > 0 && hundred < 1) return "<1\u202f%";
  return `${Math.round(hundred)}\u202f%`;
}

/** A number of any size in three digits. */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000 || size < 0.001) return value.toExponential(1).replace("e+", "e");
  return value.toPrecision(size >= 100 ? 3 : 2).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** Bytes in the unit that fits. */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${at && value < 100 ? value.toFixed(1) : Math.round(value)}\u202f${units[at]}`;
}

/** Milliseconds as time. */
export function time(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds)}\u202fms`;
  return `${(milliseconds / 1000).toFixed(1)}\u202fs`;
}
