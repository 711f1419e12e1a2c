import { join } from 'node:path';

export default {
  // Files that the gateway serves.
  output: 'export',
  // The tools are outside; see tests/support/npm.py.
  turbopack: { root: join(import.meta.dirname, '../..') },
  // The component's types are checked with those of the package.
  typescript: { ignoreBuildErrors: true },
};
