// Formats numbers for the language of the page.

import { language } from "./text.js";

const number = (options) => new Intl.NumberFormat(language, options);
const whole = number({ maximumFractionDigits: 0 });
const oneDigit = number({ maximumFractionDigits: 1 });
const percentage = number({ style: "percent", maximumFractionDigits: 0 });

export const count = (value) => whole.format(value);
export const decimal = (value) => oneDigit.format(value);
export const percent = (share) => percentage.format(share);

/** "1.2 MB": decimal units, as in cameras and file managers. */
export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  let unit = 0;
  for (; value >= 999.5 && unit < 3; unit += 1) value /= 1000;
  const digits = unit && value < 9.95 ? 1 : 0;
  return number({ style: "unit", unit: units[unit], minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

/** "48 megapixels", in short form "48 MP". */
export function megapixels(pixels) {
  return `${decimal(pixels / 1e6)}\u00a0MP`;
}

/** "2,048 × 1,536", without a line break. */
export function size({ width, height }) {
  return `${count(width)}\u00a0×\u00a0${count(height)}`;
}

/** "0.4 s", "12 s", "1 min 5 s". */
export function duration(seconds) {
  const unit = (value, name, digits = 0) =>
    number({ style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: digits }).format(value);
  if (seconds < 9.95) return unit(seconds, "second", 1).replace(" ", "\u00a0").replace("sec", "s");
  if (seconds < 59.5) return unit(Math.round(seconds), "second").replace(" ", "\u00a0").replace("sec", "s");
  const all = Math.round(seconds);
  return `${unit(Math.floor(all / 60), "minute")} ${unit(all % 60, "second").replace("sec", "s")}`;
}

/** "1 hour", "30 minutes", rounded. */
export function span(seconds) {
  const [value, unit] =
    seconds < 3600 ? [seconds / 60, "minute"]
    : seconds < 172_800 ? [seconds / 3600, "hour"]
    : [seconds / 86_400, "day"];
  return number({ style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 0 }).format(value);
}

/** Date and time of day. */
export function moment(time) {
  return new Date(time).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}
