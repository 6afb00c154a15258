// Flood fill: a connected area of similar colours, as a cover for the brush.

const TOLERANCE = 28;

/** From a position of an ImageData: 255 where the colours are similar, soft at the edge. */
export function floodFrom({ data, width, height }, x, y) {
  const cover = new Uint8Array(width * height);
  const start = y * width + x;
  const [red, green, blue] = data.subarray(4 * start, 4 * start + 3);
  const alike = (i) =>
    Math.abs(data[4 * i] - red) <= TOLERANCE &&
    Math.abs(data[4 * i + 1] - green) <= TOLERANCE &&
    Math.abs(data[4 * i + 2] - blue) <= TOLERANCE;
  const open = [start];
  cover[start] = 255;
  const visit = (i) => {
    if (cover[i] || !alike(i)) return;
    cover[i] = 255;
    open.push(i);
  };
  while (open.length) {
    const i = open.pop();
    const column = i % width;
    if (column > 0) visit(i - 1);
    if (column < width - 1) visit(i + 1);
    if (i >= width) visit(i - width);
    if (i < width * (height - 1)) visit(i + width);
  }
  return softened(softened(cover, width, height), width, height);
}

/** The mean of each sample and its four neighbours. */
function softened(cover, width, height) {
  return cover.map((value, i) => {
    const column = i % width;
    const left = column > 0 ? cover[i - 1] : value;
    const right = column < width - 1 ? cover[i + 1] : value;
    const above = i >= width ? cover[i - width] : value;
    const below = i < width * (height - 1) ? cover[i + width] : value;
    return (value + left + right + above + below) / 5;
  });
}
