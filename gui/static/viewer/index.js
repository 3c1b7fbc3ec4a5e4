// The parts of the viewer that know nothing of Vue.
export { SliceCache } from "./slices.js";
export { PlaneView, MARKS } from "./view.js";
export { SliceLayer, LabelLayer, greyTable } from "./layers.js";
export { BoneView, unpack } from "./bones.js";
export { outlines } from "./outlines.js";
export { paintLine } from "./brush.js";
export { template } from "./template.js";
