// Where a plane lies on its canvas: millimetres keep their shape, whatever the voxels.

export const PLANES = ["axial", "coronal", "sagittal"];

// Letters at the left, right, top and bottom edge, as the radiologist looks at it.
const MARKS = { axial: "RLAP", coronal: "RLSI", sagittal: "APSI" };

export class PlaneView {
  // pixels and mm: [columns, rows] of the plane.
  constructor(plane, pixels, mm) {
    Object.assign(this, { plane, pixels, mm, width: 1, height: 1, mirrored: false });
    this.reset();
  }

  reset() {
    this.zoom = 1;
    this.centre = this.pixels.map((n) => n / 2);
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
  }

  // Canvas pixels a millimetre.
  get scale() {
    const [wide, tall] = this.pixels.map((n, i) => n * this.mm[i]);
    return 0.96 * this.zoom * Math.min(this.width / wide, this.height / tall);
  }

  // [a, d, e, f]: x = a * column + e, y = d * row + f, where pixel n reaches from n to n + 1.
  get matrix() {
    const a = (this.mirrored ? -1 : 1) * this.scale * this.mm[0];
    const d = this.scale * this.mm[1];
    return [a, d, this.width / 2 - a * this.centre[0], this.height / 2 - d * this.centre[1]];
  }

  toCanvas(column, row) {
    const [a, d, e, f] = this.matrix;
    return [a * column + e, d * row + f];
  }

  toPixel(x, y) {
    const [a, d, e, f] = this.matrix;
    return [(x - e) / a, (y - f) / d];
  }

  // Zoom so that what lies under (x, y) stays there.
  zoomAt(factor, x, y) {
    const before = this.toPixel(x, y);
    this.zoom = Math.min(40, Math.max(0.5, this.zoom * factor));
    const after = this.toPixel(x, y);
    this.centre = this.centre.map((c, i) => c + before[i] - after[i]);
  }

  pan(dx, dy) {
    const [a, d] = this.matrix;
    this.centre = [this.centre[0] - dx / a, this.centre[1] - dy / d];
  }

  get marks() {
    const [left, right, top, bottom] = MARKS[this.plane];
    return this.mirrored ? [right, left, top, bottom] : [left, right, top, bottom];
  }
}
