// Reduces a photograph that is too large for the service, before its upload.

/** A file of half the width and height, halved again while it has more than `most` pixels. */
export async function halved(file, most) {
  const whole = await createImageBitmap(file);
  let factor = 0.5;
  while (whole.width * factor * whole.height * factor > most) factor /= 2;
  return drawn(whole, file, [0, 0, whole.width, whole.height], factor);
}

/** A file of a rectangle `{left, top, right, bottom}` of the photograph's pixels. */
export async function cropped(file, { left, top, right, bottom }) {
  const whole = await createImageBitmap(file);
  return drawn(whole, file, [left, top, right - left, bottom - top], 1);
}

async function drawn(whole, file, [x, y, width, height], factor) {
  const sheet = new OffscreenCanvas(Math.max(1, Math.floor(width * factor)), Math.max(1, Math.floor(height * factor)));
  const context = sheet.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, x, y, width, height, 0, 0, sheet.width, sheet.height);
  whole.close();
  const type = file.type === "image/jpeg" ? "image/jpeg" : "image/png"; // other formats may be transparent
  return new File([await sheet.convertToBlob({ type, quality: 0.95 })], file.name, { type });
}
