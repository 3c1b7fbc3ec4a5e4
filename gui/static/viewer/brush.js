// What a stroke will do, shown at once; the server does the same to the label map and has the last word.

// labels: Uint8Array, row by row, changed in place. stroke: {points, radius_mm, value, erase, over}, points in
// pixels, whole numbers at the centres; the line from point `from` on is drawn. mm: [column, row].
export function paintLine(labels, columns, rows, mm, stroke, from) {
  const { points, radius_mm: radius, value, erase, over } = stroke;
  const set = (column, row) => {
    if (column < 0 || row < 0 || column >= columns || row >= rows) return;
    const index = row * columns + column;
    if (erase) { if (labels[index] === value) labels[index] = 0; }
    else if (over || labels[index] === 0) labels[index] = value;
  };
  for (let n = from; n < points.length; n++) {
    const a = points[Math.max(n - 1, 0)], b = points[n];
    const dx = (b[0] - a[0]) * mm[0], dy = (b[1] - a[1]) * mm[1], length2 = dx * dx + dy * dy;
    const top = Math.ceil(Math.min(a[1], b[1]) - radius / mm[1]), bottom = Math.max(a[1], b[1]) + radius / mm[1];
    const left = Math.ceil(Math.min(a[0], b[0]) - radius / mm[0]), right = Math.max(a[0], b[0]) + radius / mm[0];
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const x = (column - a[0]) * mm[0], y = (row - a[1]) * mm[1];
        const t = length2 > 0 ? Math.min(1, Math.max(0, (x * dx + y * dy) / length2)) : 0;
        if ((x - t * dx) ** 2 + (y - t * dy) ** 2 <= radius * radius + 1e-9) set(column, row);
      }
    }
    set(Math.floor(b[0] + 0.5), Math.floor(b[1] + 0.5));
  }
}
