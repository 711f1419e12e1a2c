import react from '@astrojs/react';
import { defineConfig } from 'astro/config';

export default defineConfig({
  integrations: [react()],
  // Astro knows its integrations from the site's own package.json; here the tools are in that of a folder above.
  vite: { resolve: { noExternal: ['@astrojs/react'] } },
});
