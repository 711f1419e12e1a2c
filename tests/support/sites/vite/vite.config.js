import { defineConfig } from 'vite';

export default defineConfig({
  // React's development build: it mounts everything twice, and complains about what is wrong.
  define: { 'process.env.NODE_ENV': '"development"' },
  build: { rollupOptions: { input: ['index.html', 'react.html'] } },
});
