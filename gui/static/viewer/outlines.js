// Contours of labels as lines, by marching squares on each label's mask: sharp at every zoom.

// For the corners top-left 1, top-right 2, bottom-right 4, bottom-left 8 that are inside: which edges
// (0 top, 1 right, 2 bottom, 3 left) the line joins.
const EDGES = [
  [], [3, 0], [0, 1], [3, 1], [1, 2], [3, 0, 1, 2], [0, 2], [3, 2],
  [2, 3], [2, 0], [0, 1, 2, 3], [2, 1], [1, 3], [1, 0], [0, 3], [],
];
const X = [0.5, 1, 0.5, 0], Y = [0, 0.5, 1, 0.5];

// labels: Uint8Array, row by row. Returns Map: value -> Path2D in pixels, where pixel n reaches from n to n + 1.
export function outlines(labels, columns, rows) {
  const paths = new Map();
  const at = (column, row) =>
    column < 0 || row < 0 || column >= columns || row >= rows ? 0 : labels[row * columns + column];
  for (let row = -1; row < rows; row++) {
    let b = 0, c = 0; // the corners at the right, which become those at the left
    for (let column = -1; column < columns; column++) {
      const a = b, d = c;
      b = at(column + 1, row);
      c = at(column + 1, row + 1);
      if (a === b && b === c && c === d) continue;
      for (const value of new Set([a, b, c, d])) {
        if (!value) continue;
        const edges = EDGES[(a === value) | ((b === value) << 1) | ((c === value) << 2) | ((d === value) << 3)];
        if (!paths.has(value)) paths.set(value, new Path2D());
        const path = paths.get(value);
        for (let n = 0; n < edges.length; n += 2) {
          path.moveTo(column + 0.5 + X[edges[n]], row + 0.5 + Y[edges[n]]);
          path.lineTo(column + 0.5 + X[edges[n + 1]], row + 0.5 + Y[edges[n + 1]]);
        }
      }
    }
  }
  return paths;
}
