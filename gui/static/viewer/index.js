// The parts of the viewer's component.
export { BoneView } from "./bones.js";
export { paintLine } from "./brush.js";
export { drawing } from "./drawing.js";
export { pointing } from "./pointing.js";
export { SliceCache } from "./slices.js";
export { template } from "./template.js";
export { PLANES, PlaneView } from "./view.js";
