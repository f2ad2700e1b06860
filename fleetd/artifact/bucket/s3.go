package bucket

import (
	"context"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // for s3:// URLs
)

// putObject has the uploader read from the source itself, so that it ends of its own
// accord when that fails: it waits for the parts on their way, and aborts then. Where
// the context is cancelled instead, the store may get a part after the abort, and keep
// it. So ctx ends the upload at once only when the store does not answer.
func (b *Bucket) putObject(ctx context.Context, name string, source io.Reader, options *blob.WriterOptions) error {
	upload, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(answer):
			cancel()
		case <-upload.Done():
		}
	})()
	return b.bucket.Upload(upload, name, source, options)
}

// clearUploads aborts what uploads left behind that a crash cut off: nobody sees the
// parts, but they are paid for. That it may be forbidden, unknown to the store or
// impossible just now is no reason not to start: a rule of the bucket's life cycle can
// do the same (docs/artifacts-delivery.md).
func clearUploads(ctx context.Context, b *blob.Bucket, name, prefix string) {
	var client *s3.Client
	if !b.As(&client) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	uploads := s3.NewListMultipartUploadsPaginator(client, &s3.ListMultipartUploadsInput{Bucket: &name, Prefix: &prefix})
	for uploads.HasMorePages() {
		page, err := uploads.NextPage(ctx)
		if err != nil {
			return
		}
		for _, upload := range page.Uploads {
			if time.Since(aws.ToTime(upload.Initiated)) < abandoned {
				continue // another replica is writing it
			}
			_, _ = client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &name, Key: upload.Key, UploadId: upload.UploadId}) // the next start tries again
		}
	}
}
